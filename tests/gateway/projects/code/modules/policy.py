VALUE = 1


def check(request, context, options, policy_name):
    return request


def default(request, context):
    return {}
