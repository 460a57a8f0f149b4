"""Says who calls."""


def default(request, context, options, policy_name):
    return request
