"""AutoAttack (Croce & Hein, 2020, arXiv 2003.01690), version "standard" and "rand".

The driver runs its attacks one after the other, each on the images that still stand.
"""
