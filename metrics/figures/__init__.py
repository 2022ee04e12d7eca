"""Figures of scores, of signals over documents, and of one document; each is a picture and the numbers in it."""
