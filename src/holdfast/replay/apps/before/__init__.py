"""As the teams of the incidents wrote them."""
