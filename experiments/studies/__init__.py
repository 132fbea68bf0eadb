"""The study behind preset `best`: questions, commands, results; the log is README.md."""
