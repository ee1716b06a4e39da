"""Detection of garments (Ren et al. 2015, Lin et al. 2017, He et al. 2017), as torchvision has it.

Pure functions on boxes, overlaps and masks, and the layers that `models.detector` is made of.
"""
