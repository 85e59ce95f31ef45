"""`masa export package`: a folder to publish, made of an artifact that passed its verification."""
