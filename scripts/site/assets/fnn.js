// Wide tables, code and figures can be scrolled with the keyboard, and so need the focus.
for (const box of document.querySelectorAll("pre > code, .md-typeset__scrollwrap, p:has(> img), .math"))
  if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
