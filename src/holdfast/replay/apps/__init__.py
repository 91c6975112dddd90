"""The applications of the incidents, as their teams wrote them (`before`) and with holdfast (`after`), and the services that they call."""
