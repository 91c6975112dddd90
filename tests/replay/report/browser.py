"""What is measured inside of the browser. Each script returns a list of complaints; an empty one is good."""

from __future__ import annotations

# Texts of a drawing that meet, or that leave the drawing or the window.
OVERLAPS = """() => {
  const found = [];
  for (const svg of document.querySelectorAll("svg")) {
    if (getComputedStyle(svg).display === "none") continue;
    const sheet = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll("text")].map(text => [text.textContent, text.getBoundingClientRect()]);
    texts.forEach(([words, box], number) => {
      if (box.left < sheet.left - 2 || box.right > sheet.right + 2 || box.top < sheet.top - 2 || box.bottom > sheet.bottom + 2)
        found.push(`${svg.querySelector("title").id}: "${words}" leaves the drawing`);
      for (const [others, other] of texts.slice(number + 1)) {
        const across = Math.min(box.right, other.right) - Math.max(box.left, other.left);
        const down = Math.min(box.bottom, other.bottom) - Math.max(box.top, other.top);
        if (across > 1 && down > 1.5) found.push(`${svg.querySelector("title").id}: "${words}" meets "${others}"`);
      }
    });
  }
  return found;
}"""

# Elements whose content is wider than they are and cannot be scrolled to; and a page wider than its window.
OVERFLOWS = """() => {
  const found = [];
  const page = document.documentElement;
  if (page.scrollWidth > window.innerWidth) found.push(`the page is ${page.scrollWidth} px wide`);
  for (const element of document.querySelectorAll("body *")) {
    const box = element.getBoundingClientRect();
    if (!box.width || element.closest(".scroll, svg, .unseen, thead, .skip") || element.matches("colgroup, col")) continue;
    const name = `${element.tagName} "${element.textContent.slice(0, 40)}"`;
    if (box.right > window.innerWidth + 1 || box.left < -1) found.push(`${name} leaves the window`);
    if (element.scrollWidth > element.clientWidth + 1 && getComputedStyle(element).display !== "inline") found.push(`${name} is too wide`);
  }
  return found;
}"""

# Text whose contrast against what lies behind it is below 4.5 : 1, computed as WCAG 2.2 says.
CONTRASTS = """() => {
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
  const luminance = colour => {
    const linear = part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = numbers(colour).slice(0, 3).map(part => linear(part / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const opaque = colour => colour.startsWith("rgb") && (numbers(colour)[3] ?? 1) === 1;
  const behind = element => {
    for (let at = element; at; at = at.parentElement)
      if (opaque(getComputedStyle(at).backgroundColor)) return getComputedStyle(at).backgroundColor;
    return "rgb(255, 255, 255)";
  };
  const below = text => {
    const box = text.getBoundingClientRect();
    for (const part of document.elementsFromPoint(box.left + box.width / 2, box.top + box.height / 2)) {
      const style = getComputedStyle(part);
      const solid = opaque(style.fill) && style.opacity === "1" && style.fillOpacity === "1";
      if (part.matches("svg path") && solid) return style.fill;
    }
    return behind(text.closest("svg").parentElement);
  };
  const found = [];
  let seen = 0;
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!own || element.matches("script, title, desc") || !element.getClientRects().length) continue;
    const drawn = element.matches("svg text");
    const [ink, ground] = drawn ? [getComputedStyle(element).fill, below(element)] : [getComputedStyle(element).color, behind(element)];
    const [dark, light] = [luminance(ink), luminance(ground)].sort((a, b) => a - b);
    const ratio = (light + 0.05) / (dark + 0.05);
    seen += 1;
    if (ratio < 4.5) found.push(`"${element.textContent.slice(0, 40)}": ${ink} on ${ground} is ${ratio.toFixed(2)} : 1`);
  }
  return seen > 100 ? found : [`only ${seen} texts were seen`];
}"""

# The smallest text of the drawings that are shown, in pixels of the screen.
SMALLEST = """() => Math.min(...[...document.querySelectorAll("svg")].filter(svg => svg.getClientRects().length).flatMap(svg => {
  const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
  return [...svg.querySelectorAll("text")].map(text => parseFloat(getComputedStyle(text).fontSize) * scale);
}))"""
