"""Mail handed in by HTTP: read, composed, judged as any other, durable before 202, and followed."""
