"""The skill marketplace: models and rules, storage, publishing, repair and the HTTP interface."""
