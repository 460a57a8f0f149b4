"""The HTTP client of OpenMeter: the only room that knows its URLs, its status codes and its holes."""
