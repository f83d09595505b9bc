"""What tests are made of: processes, clients, engines, models and fakes. No product code imports it."""
