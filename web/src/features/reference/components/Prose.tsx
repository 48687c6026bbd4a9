/** A text of the document, which is in English: its paragraphs, and what it marks as `code`. */

export function Prose({ text }: { text: string }) {
  return text.split("\n\n").map((paragraph) => (
    <p key={paragraph} lang="en">
      <Words text={paragraph} />
    </p>
  ));
}

export function Words({ text }: { text: string }) {
  return (
    <span lang="en">
      {text.split("`").map((part, at) =>
        // biome-ignore lint/suspicious/noArrayIndexKey: the parts of a text keep their places
        at % 2 === 1 ? <code key={at}>{part}</code> : part,
      )}
    </span>
  );
}
