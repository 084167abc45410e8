"""Data of every kind, loaded into one ``TrainingData`` record; and the order in which rows are visited."""
