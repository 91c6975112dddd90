(function () {
  "use strict";
  var root = document.documentElement, button = document.getElementById("theme");
  var choices = ["", "light", "dark"], words = ["as the system", "light", "dark"], chosen = 0;
  function show() {
    if (choices[chosen]) { root.setAttribute("data-theme", choices[chosen]); } else { root.removeAttribute("data-theme"); }
    button.textContent = "Theme: " + words[chosen];
  }
  button.hidden = false;
  button.addEventListener("click", function () { chosen = (chosen + 1) % choices.length; show(); });
  show();
}());
