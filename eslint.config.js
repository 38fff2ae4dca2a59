import js from "@eslint/js";
import globals from "globals";

const page = "src/regard/look/page";

// Ways to make elements or code out of text: a token could be either.
const fromText = ["innerHTML", "outerHTML", "insertAdjacentHTML", "write", "writeln", "createContextualFragment"];

export default [
  { ignores: [`${page}/built/`, ".venv/", "build/", "dist/"] },
  js.configs.recommended,
  {
    languageOptions: { ecmaVersion: 2022, sourceType: "module" },
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: {
      curly: ["error", "multi-line"],
      eqeqeq: ["error", "always", { null: "ignore" }],
      "max-lines": ["error", 300],
      "no-var": "error",
      "prefer-const": "error",
    },
  },
  {
    files: [`${page}/*.js`],
    languageOptions: { globals: globals.browser },
    rules: {
      "no-console": "error",
      "no-eval": "error",
      "no-implied-eval": "error",
      "no-new-func": "error",
      "no-restricted-globals": ["error", "name", "event", "status", "top", "parent", "length", "find", "history"],
      "no-restricted-properties": ["error", ...fromText.map((property) => ({ property, message: "use textContent" }))],
      "no-restricted-syntax": [
        "error",
        {
          selector:
            "CallExpression[callee.property.name='setAttribute'] > Literal.arguments:first-child[value=/^(style|on)/]",
          message: "the content policy forbids style attributes and handlers: set element.style.x, addEventListener",
        },
      ],
    },
  },
  {
    files: ["**/*.mjs", "eslint.config.js"],
    languageOptions: { globals: globals.nodeBuiltin },
  },
];
