"""From a typed configuration to objects; split so that an edit builds no trainer."""
