"""What a Postfix does, by its main.cf, master.cf and tables, as a draft of our configuration."""
