// Keeps a page up to date while it is open; without it the page is whole all the same.
