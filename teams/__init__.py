"""The teams that come with the package; they are data, this file only lets an editable install find them."""
