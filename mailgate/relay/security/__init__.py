"""What destinations publish about TLS on the way there, or we ask of it: DANE, MTA-STS, policies of our own."""
