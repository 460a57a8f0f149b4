from modules.greeting import text


async def default(request, context):
    return {"hello": text(request.params)}
