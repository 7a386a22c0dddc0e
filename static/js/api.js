// The API's description, drawn by Swagger UI from our own copy: nothing is fetched from elsewhere.
(() => {
  const place = document.getElementById("api");
  SwaggerUIBundle({
    url: place.dataset.url,
    domNode: place,
    deepLinking: true,
    docExpansion: "list",
    defaultModelsExpandDepth: -1,
    tryItOutEnabled: true,
    validatorUrl: null, // the default sends the document to a validator on the internet
  });
})();
