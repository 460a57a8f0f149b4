"""OpenMeter's HTTP API over the domain and the store. Each module: ``routes(services) -> list[Route]``."""
