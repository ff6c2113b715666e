"""Features for people without sparsteer: a page that opens from disk, and other tools' layouts."""
