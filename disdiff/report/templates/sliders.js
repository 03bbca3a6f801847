for (const unit of document.querySelectorAll(".unit")) {
  const slider = unit.querySelector("input");
  slider.addEventListener("input", () => {
    const amount = slider.dataset.amounts.split("|")[slider.value];
    unit.querySelector(".frame").style.backgroundPositionX = 100 * slider.value / slider.max + "%";
    unit.querySelector("output").textContent = amount;
    slider.setAttribute("aria-valuetext", amount);
  });
}
