"""What a test of your own project can use: real servers, a small API to stand behind a gateway, load."""
