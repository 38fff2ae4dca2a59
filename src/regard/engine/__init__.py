"""How attention is run: problems, tiles, kernels, merging and the backward pass. Imports nothing else of regard's."""
