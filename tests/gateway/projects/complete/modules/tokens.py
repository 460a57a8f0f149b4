def count_tokens(response, request, context, options, policy_name):
    response.headers.set("x-field", options["field"])
    return response
