"""What a Haraka does, by the files of its folder config, as a draft of our configuration."""
