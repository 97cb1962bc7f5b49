"""The commands, a module each with `main(argv)`. `cli.names` lists them."""
