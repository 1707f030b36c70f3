"""What things are called and which there are: errors, labels, features, metrics, models.

No TensorFlow here: the command line, the gate and the client of a run read these at once.
"""
