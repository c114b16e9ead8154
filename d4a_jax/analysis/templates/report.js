"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const pickClass = byId("pick-class");
  const pickSegment = byId("pick-segment");
  const groups = [...document.querySelectorAll(".group")];

  const chosen = () => ({
    label: pickClass.value,
    segment: pickSegment ? pickSegment.value : "all",
    kind: document.querySelector("input[name=kind]:checked")?.value ?? "stored",
  });

  const show = () => {
    const { label, segment, kind } = chosen();
    let visible = 0;
    for (const group of groups) {
      const { dataset } = group;
      group.hidden =
        (label !== "all" && dataset.class !== label) ||
        (segment !== "all" && dataset.segment !== segment);
      visible += group.hidden ? 0 : 1;
      for (const strip of group.querySelectorAll(".strip")) {
        strip.hidden = !["real", kind].includes(strip.dataset.kind);
      }
    }
    byId("browsing").textContent =
      `${pickClass.selectedOptions[0].textContent}: ${visible} groups shown`;
  };

  const step = (change) => {
    const count = pickClass.options.length;
    pickClass.selectedIndex = (pickClass.selectedIndex + change + count) % count;
    show();
  };

  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("controls").addEventListener("change", show);
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("controls").hidden = false;
  show();
})();
