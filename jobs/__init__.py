"""What a person or a scheduler starts: the `tandem` command and the configs that come with it."""
