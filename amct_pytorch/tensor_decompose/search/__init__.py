"""The cheapest plan by the accuracy of the whole model, as the user measures it."""
