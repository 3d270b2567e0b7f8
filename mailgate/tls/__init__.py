"""TLS on both sides: our certificates, what a handshake came to, and whom the relay trusts."""
