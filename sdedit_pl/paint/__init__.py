"""The paint page: guides and masks painted in a browser, edited with one loaded model."""
