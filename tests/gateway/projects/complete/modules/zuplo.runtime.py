def runtime_init(runtime):
    runtime.add_response_sending_hook(lambda response, request, context: response)
