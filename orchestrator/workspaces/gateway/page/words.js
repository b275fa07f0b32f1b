// What the page says, in the language that the server chose from Accept-Language.

const WORDS = {
    en: {
        opening: "Opening your desktop…",
        reconnecting: "Reconnecting…",
        reconnectingHint: "One moment. A session that is running goes on meanwhile.",
        stillTrying: "Still trying. Check your network; your session goes on meanwhile.",
        ended: "This session has ended",
        endedHint: "What you saved in your home and in the project folder is kept.",
        signedOut: "You are signed out",
        signedOutHint: "Your session goes on for now. Sign in to come back to it.",
        signIn: "Sign in",
        replaced: "This desktop is open in another window",
        replacedHint: "One window at a time shows it.",
        takeBack: "Show it here",
        home: "Back to your projects",
        full: "Full screen",
        window: "Leave full screen",
        leave: "Leave",
        tooLong: "That is too long to paste (1 MB at most).",
        endsAt: (time) => `This session ends at ${time}. Save your work.`,
    },
    fr: {
        opening: "Ouverture de votre bureau…",
        reconnecting: "Reconnexion…",
        reconnectingHint: "Un instant. Une session en cours continue pendant ce temps.",
        stillTrying: "Nouvel essai. Vérifiez votre réseau ; votre session continue pendant ce temps.",
        ended: "Cette session est terminée",
        endedHint: "Ce que vous avez enregistré dans votre dossier personnel et dans celui du projet est conservé.",
        signedOut: "Vous êtes déconnecté",
        signedOutHint: "Votre session continue pour l’instant. Identifiez-vous pour y revenir.",
        signIn: "S’identifier",
        replaced: "Ce bureau est ouvert dans une autre fenêtre",
        replacedHint: "Une seule fenêtre à la fois le montre.",
        takeBack: "L’afficher ici",
        home: "Retour à vos projets",
        full: "Plein écran",
        window: "Quitter le plein écran",
        leave: "Quitter",
        tooLong: "C’est trop long à coller (1 Mo au plus).",
        endsAt: (time) => `Cette session se termine à ${time}. Enregistrez votre travail.`,
    },
};

export const language = document.documentElement.lang in WORDS ? document.documentElement.lang : "en";
export const words = WORDS[language];
