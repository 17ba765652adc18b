"""Compression: decoder, quantizers, codecs and their published peers."""
