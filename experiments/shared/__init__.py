"""The code that the experiments share.

command_line    options from a typed Config; wrong ones in plain words
terminal        numbered steps, tables, a progress bar over epochs
run_folder      the folder of a run: JSON, JSON lines, versions
answers         how an experiment with one question ends
seeds           mean and standard deviation over seeds

problem         from the options to network, loss, optimizer and data
recipe          gradient check, training and test of any image classifier
networks        LeNet, an all-convolutional network and a residual network
digits_subset   a few digits, some labels wrong, for regularisation
tuning          the best learning rate of each optimizer
published       settings of published results, for `reproduce`
published_runs  training and measuring with such a setting

figures         one style for all figures; learning curves, mistakes
sweep_figures   measurements over hyperparameters, under several seeds
"""
