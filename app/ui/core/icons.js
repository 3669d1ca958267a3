// Draws the icons, as outlines of 24 by 24 units in the colour of the text.

const SHAPES = {
  menu: "M4 7h16M4 12h16M4 17h16",
  plus: "M12 5v14M5 12h14",
  search: "M11 4a7 7 0 1 0 0 14a7 7 0 1 0 0-14M20 20l-4-4",
  send: "M12 19V5M6 11l6-6 6 6",
  stop: "M7 7h10v10H7z",
  copy: "M9 9h10v11H9zM15 9V5H5v11h4",
  check: "M5 13l4 4L19 7",
  retry: "M19 12a7 7 0 1 1-2-5l2 2M19 4v5h-5",
  edit: "M4 20l1-4L16 5l3 3L8 19zM14 7l3 3",
  left: "M14 6l-6 6 6 6",
  right: "M10 6l6 6-6 6",
  down: "M6 9l6 6 6-6",
  sliders: "M4 8h9M17 8h3M4 16h3M11 16h9M15 6v4M9 14v4",
  dots: "M5 12h.01M12 12h.01M19 12h.01",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  clip: "M19 11l-7 7a4 4 0 0 1-6-6l7-7a3 3 0 0 1 4 4l-7 7a1 1 0 0 1-2-2l6-6",
  close: "M6 6l12 12M18 6L6 18",
  download: "M12 4v11M7 11l5 5 5-5M5 20h14",
  upload: "M12 16V5M7 9l5-5 5 5M5 20h14",
  columns: "M4 5h16v14H4zM12 5v14",
  bottom: "M12 5v14M6 13l6 6 6-6",
  tool: "M14 6a4 4 0 0 1 5 5l-9 9-3-3 9-9M7 17l-2 2",
  leave: "M10 4H5v16h5M14 8l4 4-4 4M18 12H9",
  forward: "M5 12h13M13 6l6 6-6 6",
};

const NAMESPACE = "http://www.w3.org/2000/svg";

/** @param {keyof typeof SHAPES} name @returns {SVGElement} */
export function icon(name) {
  const svg = document.createElementNS(NAMESPACE, "svg");
  const path = document.createElementNS(NAMESPACE, "path");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", SHAPES[name]);
  svg.append(path);
  return svg;
}
