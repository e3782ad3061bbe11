// Wide tables and code can be scrolled with the keyboard, and so need the focus.
for (const box of document.querySelectorAll("pre > code, .md-typeset__scrollwrap"))
  if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
