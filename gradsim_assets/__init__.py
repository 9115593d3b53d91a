"""gradsim: which training samples does a fine-tuned language model's behaviour go back to?"""

__version__ = "0.1.0"
