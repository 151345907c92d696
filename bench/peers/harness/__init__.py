"""What every run shares: servers, topic, processes, measuring, the table. Only the standard library is used."""
