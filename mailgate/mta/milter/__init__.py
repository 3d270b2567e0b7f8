"""A milter of ours: sessions and messages as a mail server tells them, judged by the same pipelines."""
