// Explore: empty fields stay out of the URL, and a chart is saved as a picture.
(() => {
  const showButton = () => {
    for (const button of document.querySelectorAll("[data-png][hidden]")) button.hidden = false;
  };

  // One picture of all charts, one below the other, on the page's background.
  const save = () => {
    const canvases = [...document.querySelectorAll(".chart canvas")];
    if (!canvases.length) return;
    const picture = document.createElement("canvas");
    picture.width = Math.max(...canvases.map((canvas) => canvas.width));
    picture.height = canvases.reduce((height, canvas) => height + canvas.height, 0);
    const context = picture.getContext("2d");
    context.fillStyle = getComputedStyle(document.querySelector(".panel")).backgroundColor;
    context.fillRect(0, 0, picture.width, picture.height);
    let top = 0;
    for (const canvas of canvases) {
      context.drawImage(canvas, 0, top);
      top += canvas.height;
    }
    picture.toBlob((blob) => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(blob);
      link.download = "vantage.png";
      link.click();
      URL.revokeObjectURL(link.href);
    }, "image/png");
  };

  document.addEventListener("click", (event) => {
    if (event.target.closest("[data-png]")) save();
  });
  document.addEventListener("formdata", (event) => {
    if (event.target.id !== "questions") return;
    const entries = [...event.formData];
    for (const name of new Set(entries.map(([key]) => key))) event.formData.delete(name);
    for (const [name, value] of entries) if (value !== "") event.formData.append(name, value);
  });
  document.addEventListener("htmx:after:swap", showButton);
  showButton();
})();
