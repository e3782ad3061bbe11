"""The audit: are gradients right, and if not, which layer is wrong?"""
