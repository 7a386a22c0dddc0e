// Shows the API's description with the bundled Swagger UI: nothing is fetched from the internet.
(() => {
  const container = document.getElementById("api");
  SwaggerUIBundle({
    url: container.dataset.url,
    domNode: container,
    deepLinking: true,
    docExpansion: "list",
    defaultModelsExpandDepth: -1,
    tryItOutEnabled: true,
    validatorUrl: null, // the default sends the document to a validator on the internet
  });
})();
