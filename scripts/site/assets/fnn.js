// An equation within a sentence that is wider than a phone becomes a line that scrolls.
function widen() {
  for (const math of document.querySelectorAll("span.math")) {
    math.classList.remove("wide");
    const room = math.closest("p, li, td, .md-typeset").clientWidth;
    math.classList.toggle("wide", math.getBoundingClientRect().width > room - 1);
  }
}
widen();
addEventListener("resize", widen);

// Wide tables, code and figures can be scrolled with the keyboard, and so need the focus.
const boxes = "pre > code, .md-typeset__scrollwrap, p:has(> img), .math";
for (const box of document.querySelectorAll(boxes))
  if (box.scrollWidth > box.clientWidth && box.clientWidth > 0) box.tabIndex = 0;
