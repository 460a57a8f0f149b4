def text(params):
    return params.get("name", "world")
