"""A handler in Python: what it returns becomes the response, as JSON."""

from metergate.runtime import Context, Request


async def complete(request: Request, context: Context) -> dict[str, object]:
    prompt = await request.text()
    return {"id": context.request_id, "completion": prompt[::-1]}
