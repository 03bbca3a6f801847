const sliders = [...document.querySelectorAll(".unit input")];
for (const slider of sliders) {
  const unit = slider.closest(".unit");
  slider.addEventListener("input", () => {
    const amount = slider.dataset.amounts.split("|")[slider.value];
    unit.querySelector(".frame").style.backgroundPositionX = 100 * slider.value / slider.max + "%";
    unit.querySelector("output").textContent = amount;
    slider.setAttribute("aria-valuetext", amount);
  });
}

const play = document.querySelector("#play");
let timer = 0, step = 1;
play.addEventListener("click", () => {
  const moving = play.getAttribute("aria-pressed") === "true";
  play.setAttribute("aria-pressed", !moving);
  play.textContent = moving ? "Move all back and forth" : "Stop";
  clearInterval(timer);
  if (!moving) timer = setInterval(() => {
    const place = Number(sliders[0].value);
    if (place + step < 0 || place + step > sliders[0].max) step = -step;
    for (const slider of sliders) {
      slider.value = place + step;
      slider.dispatchEvent(new Event("input"));
    }
  }, 250);
});
