"""The web tier's side of Mainstem: clients, HTTP gateway, protocol adapters and the command line."""
